with source as (

    select * from {{ source('web', 'events') }}

),

ranked as (

    select
        *,
        row_number() over (
            partition by event_id
            order by event_at, _file, _line
        ) as arrival_number
    from source

),

first_arrivals as (

    select * from ranked
    where arrival_number = 1

),

renamed as (

    select
        event_id,
        user_id,
        session_id,
        order_id,

        event_type,
        stock_code,
        {{ json_text('page', '$.path') }} as page_path,
        {{ json_text('page', '$.referrer') }} as page_referrer,

        amount,

        cast(event_at as date) as event_date,
        event_date as file_date,

        event_at,

        _load_id,
        _loaded_at
    from first_arrivals

)

select * from renamed
