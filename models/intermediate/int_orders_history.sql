{{
    config(
        materialized='incremental',
        incremental_strategy=replace_rows(),
        unique_key=['order_id', 'valid_from'],
    )
}}

with history as (

    {{
        keep_history(
            ref('stg_order_changes'),
            key='order_id',
            columns=[
                'user_id',
                'invoice_no',
                'country',
                'status',
                'amount_cents',
                'ordered_at',
                'created_at',
                'updated_at',
            ],
        )
    }}

),

identified as (

    select
        {{ dbt_utils.generate_surrogate_key(['order_id', 'valid_from']) }}
            as order_version_id,
        order_id,
        user_id,

        invoice_no,
        country,
        status,

        amount_cents,

        is_current,
        is_deleted,

        ordered_at,
        created_at,
        updated_at,
        valid_from,
        valid_to,

        _generation,
        _lsn,
        _seq,
        _load_id,
        _loaded_at
    from history

)

select * from identified
