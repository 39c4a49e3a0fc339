with changes as (

    select * from {{ source('shop', 'orders__changes') }}

),

latest as (

    {{
        current_rows(
            'changes',
            key='id',
            columns=[
                'invoice_no',
                'user_id',
                'country',
                'status',
                'amount_cents',
                'ordered_at',
                'created_at',
                'updated_at',
            ],
        )
    }}

),

alive as (

    select
        id,
        invoice_no,
        user_id,
        country,
        status,
        amount_cents,
        ordered_at,
        created_at,
        updated_at,
        _load_id,
        _loaded_at
    from latest
    where _age = 1 and _op != 'd'

)

select * from alive
