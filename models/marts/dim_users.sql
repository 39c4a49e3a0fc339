with users as (

    select * from {{ ref('stg_users') }}

),

user_orders as (

    select * from {{ ref('int_user_orders') }}

),

countries as (

    select * from {{ ref('countries') }}

),

-- Orders may name a user that has not landed yet, or was erased at the source.
-- Such a user has a row too, so that every order finds its own.
joined as (

    select
        coalesce(users.user_id, user_orders.user_id) as user_id,

        users.email_hash,
        users.country,
        countries.country_code,
        countries.region,

        coalesce(user_orders.order_count, 0) as order_count,
        coalesce(user_orders.cancelled_order_count, 0)
            as cancelled_order_count,
        coalesce(user_orders.lifetime_revenue, 0) as lifetime_revenue,

        users.user_id is not null as has_profile,

        user_orders.first_order_at,
        user_orders.last_order_at,
        users.created_at,
        users.updated_at
    from users
    full join user_orders on users.user_id = user_orders.user_id
    left join countries on users.country = countries.country

)

select * from joined
