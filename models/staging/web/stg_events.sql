with source as (

    select * from {{ source('web', 'events') }}

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
        _file as file_name,

        _line as file_line,
        amount,

        cast(event_at as date) as event_date,
        event_date as file_date,

        event_at,

        _load_id,
        _loaded_at
    from source

)

select * from renamed
