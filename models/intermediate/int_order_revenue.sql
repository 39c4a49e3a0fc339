{{
    config(
        materialized='incremental',
        incremental_strategy=replace_rows(),
        unique_key='order_id',
        pre_hook="{{ delete_gone_rows('order_id', ref('stg_orders')) }}",
    )
}}

with orders as (

    select * from {{ ref('stg_orders') }}

),

order_items as (

    select * from {{ ref('stg_order_items') }}

),

order_lines as (

    select
        order_id,
        count(*) as line_count,
        sum(quantity) as piece_count,
        sum(quantity * unit_price) as lines_amount,
        max(_load_id) as _load_id,
        max(_loaded_at) as _loaded_at
    from order_items
    group by 1

),

-- What was called off before it was paid adds nothing. A credit note takes
-- back what an earlier order added, so its negative amount counts.
settled as (

    select
        *,
        not(is_cancelled and amount_cents > 0) as is_revenue
    from orders

),

joined as (

    select
        settled.order_id,
        settled.user_id,

        settled.invoice_no,
        settled.country,
        settled.status,

        coalesce(order_lines.line_count, 0) as line_count,
        cast(coalesce(order_lines.piece_count, 0) as bigint) as piece_count,
        settled.amount_cents,
        {{ cents_to_dollars('settled.amount_cents') }} as amount,
        cast(coalesce(order_lines.lines_amount, 0) as decimal(19, 3))
            as lines_amount,
        case
            when settled.is_revenue
                then {{ cents_to_dollars('settled.amount_cents') }}
            else 0
        end as revenue,

        settled.is_cancelled,
        settled.is_revenue,

        settled.order_date,

        settled.ordered_at,
        settled.updated_at,

        settled._load_id as _orders_load_id,
        order_lines._load_id as _order_items_load_id,
        coalesce(
            greatest(settled._load_id, order_lines._load_id), settled._load_id
        ) as _load_id,
        coalesce(
            greatest(settled._loaded_at, order_lines._loaded_at),
            settled._loaded_at
        ) as _loaded_at
    from settled
    left join order_lines on settled.order_id = order_lines.order_id

),

-- An order is written again when it is not what it was made of: it arrived, or
-- a line of it did, or one is gone, perhaps to another order.
changed as (

    {{
        changed_since_last_run('joined', [
            'order_id', 'line_count', '_orders_load_id', '_order_items_load_id',
        ])
    }}

),

written as (

    select * from joined
    where order_id in (select changed.order_id from changed)

)

select * from written
