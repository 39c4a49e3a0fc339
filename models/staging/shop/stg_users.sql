with base as (

    select * from {{ ref('base_shop__users') }}

),

renamed as (

    select
        id as user_id,

        email as email_hash,
        country,

        created_at,
        updated_at,

        _load_id,
        _loaded_at
    from base
    where not _is_deleted

)

select * from renamed
