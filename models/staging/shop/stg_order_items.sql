with source as (

    select * from {{ source('shop', 'order_items') }}

),

renamed as (

    select
        id as order_item_id,
        order_id,
        product_id,

        description,

        line_number,
        quantity,
        unit_price,

        created_at,
        updated_at,

        _load_id,
        _loaded_at
    from source

)

select * from renamed
