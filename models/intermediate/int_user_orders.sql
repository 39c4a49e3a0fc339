with orders as (

    select * from {{ ref('int_order_revenue') }}
    where user_id is not null

),

aggregated as (

    select
        user_id,

        count(case when not is_cancelled then order_id end) as order_count,
        count(case when is_cancelled then order_id end)
            as cancelled_order_count,
        cast(sum(revenue) as decimal(19, 2)) as lifetime_revenue,

        min(case when not is_cancelled then order_date end)
            as first_order_date,

        min(case when not is_cancelled then ordered_at end) as first_order_at,
        max(case when not is_cancelled then ordered_at end) as last_order_at
    from orders
    group by 1

)

select * from aggregated
