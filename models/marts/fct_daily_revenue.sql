with orders as (

    select * from {{ ref('int_order_revenue') }}

),

dates as (

    select * from {{ ref('dim_dates') }}

),

span as (

    select
        min(order_date) as first_date,
        max(order_date) as last_date
    from orders

),

daily as (

    select
        order_date,

        count(case when not is_cancelled then order_id end) as order_count,
        count(case when is_cancelled then order_id end)
            as cancelled_order_count,
        count(distinct case when not is_cancelled then user_id end)
            as user_count,
        sum(case when revenue > 0 then revenue else 0 end) as sales,
        sum(case when revenue < 0 then revenue else 0 end) as credits,
        sum(revenue) as revenue
    from orders
    group by 1

),

-- A day without an order is a day of 0, not a day that is missing.
every_day as (

    select
        dates.date_day as revenue_date,

        coalesce(daily.order_count, 0) as order_count,
        coalesce(daily.cancelled_order_count, 0) as cancelled_order_count,
        coalesce(daily.user_count, 0) as user_count,
        cast(coalesce(daily.sales, 0) as decimal(19, 2)) as sales,
        cast(coalesce(daily.credits, 0) as decimal(19, 2)) as credits,
        cast(coalesce(daily.revenue, 0) as decimal(19, 2)) as revenue
    from dates
    inner join span
    on dates.date_day between span.first_date and span.last_date
    left join daily on dates.date_day = daily.order_date

)

select * from every_day
