with changes as (

    select * from {{ source('shop', 'users__changes') }}

),

latest as (

    {{
        current_rows(
            'changes',
            key='id',
            columns=[
                'email',
                'country',
                'created_at',
                'updated_at',
            ],
        )
    }}

),

alive as (

    select
        id,
        email,
        country,
        created_at,
        updated_at,
        _load_id,
        _loaded_at
    from latest
    where _age = 1 and _op != 'd'

)

select * from alive
