{{
    config(
        materialized='incremental',
        unique_key='order_id',
    )
}}

with orders as (

    select * from {{ ref('stg_orders') }}
    {% if is_incremental() %}
        where {{ arrived_since_last_run() }}
    {% endif %}

),

priced as (

    select
        order_id,
        user_id,

        invoice_no,
        country,
        status,

        amount_cents,
        {{ cents_to_dollars('amount_cents') }} as amount,
        {{ cents_to_dollars('revenue_cents') }} as revenue,

        is_cancelled,

        order_date,

        ordered_at,
        updated_at,

        _load_id,
        _loaded_at
    from orders

)

select * from priced
