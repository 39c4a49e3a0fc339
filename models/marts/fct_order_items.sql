{{
    config(
        materialized='incremental',
        incremental_strategy=replace_rows(),
        unique_key='order_item_id',
        pre_hook=[
            "{{ delete_gone_rows('order_id', ref('int_order_revenue')) }}",
            "{{ delete_gone_rows(
                ['order_item_id', 'order_id'], ref('stg_order_items')
            ) }}",
        ],
    )
}}

with order_items as (

    select * from {{ ref('stg_order_items') }}

),

orders as (

    select * from {{ ref('int_order_revenue') }}

),

joined as (

    select
        order_items.order_item_id,
        order_items.order_id,
        order_items.product_id,
        orders.user_id,

        order_items.description,

        order_items.line_number,
        order_items.quantity,
        order_items.unit_price,
        cast(order_items.quantity * order_items.unit_price as decimal(19, 3))
            as amount,

        orders.is_cancelled,
        orders.is_revenue,

        orders.order_date,

        orders.ordered_at,

        orders._orders_load_id,
        order_items._load_id,
        order_items._loaded_at
    from order_items
    inner join orders on order_items.order_id = orders.order_id

),

-- A line is written again when it arrived or its order did.
changed as (

    {{
        changed_since_last_run('joined', [
            'order_item_id', '_orders_load_id', '_load_id',
        ])
    }}

),

settled as (

    select
        order_item_id,
        order_id,
        product_id,
        user_id,

        description,

        line_number,
        quantity,
        unit_price,
        amount,
        case when is_revenue then amount else 0 end as revenue,

        is_cancelled,

        order_date,

        ordered_at,

        _orders_load_id,
        _load_id,
        _loaded_at
    from joined
    where order_item_id in (select changed.order_item_id from changed)

)

select * from settled
