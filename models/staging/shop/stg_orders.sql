with source as (

    select * from {{ source('shop', 'orders') }}

),

renamed as (

    select
        id as order_id,
        user_id,

        invoice_no,
        country,
        status,

        amount_cents,
        case
            when status = 'cancelled' and amount_cents > 0 then 0
            else amount_cents
        end as revenue_cents,

        status = 'cancelled' as is_cancelled,

        cast(ordered_at as date) as order_date,

        ordered_at,
        created_at,
        updated_at,

        _load_id,
        _loaded_at
    from source

)

select * from renamed
