{{ config(materialized='view') }}

with orders as (

    select * from {{ ref('int_order_revenue') }}

),

order_statuses as (

    select * from {{ ref('order_statuses') }}

),

joined as (

    select
        orders.order_id,
        orders.user_id,

        orders.invoice_no,
        orders.country,
        orders.status,

        orders.line_count,
        orders.piece_count,
        orders.amount_cents,
        orders.amount,
        orders.revenue,

        orders.is_cancelled,
        not order_statuses.is_final as is_open,

        orders.order_date,

        orders.ordered_at,
        orders.updated_at,

        orders._load_id,
        orders._loaded_at
    from orders
    left join order_statuses on orders.status = order_statuses.status

)

select * from joined
