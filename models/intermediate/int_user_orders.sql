with orders as (

    select * from {{ ref('stg_orders') }}
    where user_id is not null

),

aggregated as (

    select
        user_id,

        count(case when not is_cancelled then order_id end) as order_count,
        count(case when is_cancelled then order_id end)
            as cancelled_order_count,
        {{ cents_to_dollars('sum(revenue_cents)') }} as lifetime_revenue,

        min(case when not is_cancelled then ordered_at end) as first_order_at,
        max(case when not is_cancelled then ordered_at end) as last_order_at
    from orders
    group by 1

)

select * from aggregated
