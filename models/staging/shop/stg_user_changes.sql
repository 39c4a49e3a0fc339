with source as (

    select * from {{ source('shop', 'users__changes') }}

),

renamed as (

    select
        id as user_id,

        email as email_hash,
        country,

        created_at,
        updated_at,

        _op,
        _generation,
        _lsn,
        _seq,
        _committed_at,
        _unchanged,
        _load_id,
        _loaded_at
    from source

)

select * from renamed
