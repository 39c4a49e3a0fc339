with versions as (

    select * from {{ ref('int_users_history') }}

),

countries as (

    select * from {{ ref('countries') }}

),

joined as (

    select
        versions.user_version_id,
        versions.user_id,

        versions.email_hash,
        versions.country,
        countries.country_code,
        countries.region,

        versions.is_current,
        versions.is_deleted,

        versions.valid_from,
        versions.valid_to,
        versions.created_at,
        versions.updated_at
    from versions
    left join countries on versions.country = countries.country

)

select * from joined
