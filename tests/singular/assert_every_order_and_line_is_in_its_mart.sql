-- fct_orders and fct_order_items hold what staging holds: no row less or more.
--
-- Fewer: something arrived and was not taken; or an order was deleted and its
-- lines are still in raw, as a watermark does not see deletes. More: rows were
-- deleted from raw (pyops reconcile --apply, extract --full-refresh, a day
-- landed again without them), which a model that goes by arrival cannot see.
--
-- What to do: for lines of deleted orders, pyops reconcile order_items --apply;
-- then dbt build --select int_order_revenue+ --full-refresh

with orders as (

    select
        (select count(*) from {{ ref('stg_orders') }}) as staged_count,
        (select count(*) from {{ ref('fct_orders') }}) as mart_count

),

order_items as (

    select
        (select count(*) from {{ ref('stg_order_items') }}) as staged_count,
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
