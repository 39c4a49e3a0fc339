{{
    config(
        materialized='incremental',
        incremental_strategy=replace_rows(),
        unique_key='id',
    )
}}

with applied as (

    {{
        apply_changes(
            source('shop', 'orders__changes'),
            key='id',
            columns=[
                'invoice_no',
                'user_id',
                'country',
                'status',
                'amount_cents',
                'ordered_at',
                'created_at',
                'updated_at',
            ],
        )
    }}

)

select * from applied
