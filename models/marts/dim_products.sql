with products as (

    select * from {{ ref('stg_products') }}

),

product_sales as (

    select * from {{ ref('int_product_sales') }}

),

-- A product that orders name and the catalogue no longer does has a row too,
-- so that every line of an order finds its own.
joined as (

    select
        coalesce(products.product_id, product_sales.product_id) as product_id,

        products.stock_code,
        products.description,

        products.unit_price,
        coalesce(product_sales.order_count, 0) as order_count,
        coalesce(product_sales.pieces_sold, 0) as pieces_sold,
        cast(coalesce(product_sales.gross_sales, 0) as decimal(19, 3))
            as gross_sales,

        products.product_id is not null as is_listed,

        product_sales.first_sold_date,
        product_sales.last_sold_date,

        products.created_at,
        products.updated_at
    from products
    full join product_sales on products.product_id = product_sales.product_id

)

select * from joined
