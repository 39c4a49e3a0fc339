with source as (

    select * from {{ source('shop', 'products') }}

),

renamed as (

    select
        id as product_id,

        stock_code,
        description,

        unit_price,

        created_at,
        updated_at,

        _load_id,
        _loaded_at
    from source

)

select * from renamed
