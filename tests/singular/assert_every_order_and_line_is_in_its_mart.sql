-- fct_orders and fct_order_items hold what staging holds: no row less or more.
--
-- A line whose order is not there, deleted or not landed yet, is in no mart:
-- a watermark does not see that the shop deleted it with its order, until
-- pyops reconcile order_items --apply. Any other difference means that
-- something arrived or went and was not taken.
--
-- What to do: dbt build --select int_order_revenue+ --full-refresh, and report
-- it: this should not happen.

with orders as (

    select
        (select count(*) from {{ ref('stg_orders') }}) as staged_count,
        (select count(*) from {{ ref('fct_orders') }}) as mart_count

),

order_items as (

    select
        (
            select count(*) from {{ ref('stg_order_items') }} as order_items
            inner join {{ ref('stg_orders') }} as orders
            on order_items.order_id = orders.order_id
        ) as staged_count,
        (select count(*) from {{ ref('fct_order_items') }}) as mart_count

),

counts as (

    select
        'fct_orders' as mart_name,
        orders.*
    from orders
    union all
    select
        'fct_order_items' as mart_name,
        order_items.*
    from order_items

)

select * from counts
where staged_count != mart_count
