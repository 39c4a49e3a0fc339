with source as (

    select * from {{ source('shop', 'orders__changes') }}

),

renamed as (

    select
        id as order_id,
        user_id,

        invoice_no,
        country,
        status,

        amount_cents,

        ordered_at,
        created_at,
        updated_at,

        _op,
        _generation,
        _lsn,
        _seq,
        _committed_at,
        _unchanged,
        _load_id,
        _loaded_at
    from source

)

select * from renamed
