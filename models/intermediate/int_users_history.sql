{{
    config(
        materialized='incremental',
        incremental_strategy=replace_rows(),
        unique_key=['user_id', 'valid_from'],
    )
}}

with history as (

    {{
        keep_history(
            ref('stg_user_changes'),
            key='user_id',
            columns=['email_hash', 'country', 'created_at', 'updated_at'],
            sent_as={'email_hash': 'email'},
        )
    }}

),

identified as (

    select
        {{ dbt_utils.generate_surrogate_key(['user_id', 'valid_from']) }}
            as user_version_id,
        user_id,

        email_hash,
        country,

        is_current,
        is_deleted,

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
