with order_items as (

    select * from {{ ref('stg_order_items') }}

),

orders as (

    select * from {{ ref('int_order_revenue') }}

),

-- Neither credit notes nor orders that were called off are sales.
lines as (

    select
        order_items.product_id,
        order_items.order_id,

        order_items.quantity,
        order_items.quantity * order_items.unit_price as amount,

        not orders.is_cancelled and order_items.quantity > 0 as is_sale,

        orders.order_date
    from order_items
    inner join orders on order_items.order_id = orders.order_id

),

aggregated as (

    select
        product_id,

        count(distinct case when is_sale then order_id end) as order_count,
        cast(sum(case when is_sale then quantity else 0 end) as bigint)
            as pieces_sold,
        cast(sum(case when is_sale then amount else 0 end) as decimal(19, 3))
            as gross_sales,

        min(case when is_sale then order_date end) as first_sold_date,
        max(case when is_sale then order_date end) as last_sold_date
    from lines
    group by 1

)

select * from aggregated
