-- The days of fct_daily_revenue hold what the orders of fct_orders add up to.
--
-- They differ when orders lie outside the calendar of dim_dates, or when the
-- two were not built from the same load.
--
-- What to do: look for orders beyond dim_dates, widen `calendar_start` and
-- `calendar_end` in dbt_project.yml where they are right; then build both
-- again, and fct_orders with --full-refresh should they still differ.

with orders as (

    select
        count(*) as order_count,
        sum(revenue) as revenue
    from {{ ref('fct_orders') }}

),

days as (

    select
        sum(order_count + cancelled_order_count) as order_count,
        sum(revenue) as revenue
    from {{ ref('fct_daily_revenue') }}

)

select
    orders.order_count,
    days.order_count as daily_order_count,
    orders.revenue,
    days.revenue as daily_revenue
from orders
cross join days
where
    coalesce(orders.order_count, 0) != coalesce(days.order_count, 0)
    or coalesce(orders.revenue, 0) != coalesce(days.revenue, 0)
