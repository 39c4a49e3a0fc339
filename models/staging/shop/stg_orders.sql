with base as (

    select * from {{ ref('base_shop__orders') }}

),

renamed as (

    select
        id as order_id,
        user_id,

        invoice_no,
        country,
        status,

        amount_cents,

        status = 'cancelled' as is_cancelled,

        cast(ordered_at as date) as order_date,

        ordered_at,
        created_at,
        updated_at,

        _load_id,
        _loaded_at
    from base
    where not _is_deleted

)

select * from renamed
