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
            source('shop', 'users__changes'),
            key='id',
            columns=['email', 'country', 'created_at', 'updated_at'],
        )
    }}

)

select * from applied
