with spine as (

    {{ dbt_utils.date_spine(
        datepart='day',
        start_date="cast('" ~ var('calendar_start') ~ "' as date)",
        end_date="cast('" ~ var('calendar_end') ~ "' as date)",
    ) }}

),

days as (

    select
        cast(date_day as date) as date_day,
        -- A Monday: no engine's own count of weekdays is needed.
        cast('1900-01-01' as date) as some_monday
    from spine

),

numbered as (

    select
        date_day,

        cast(extract(year from date_day) as integer) as year_number,
        cast(extract(quarter from date_day) as integer) as quarter_number,
        cast(extract(month from date_day) as integer) as month_number,
        cast(extract(day from date_day) as integer) as day_of_month,
        {{ dbt.datediff(
            'some_monday', 'date_day', 'day'
        ) }} as day_number,

        cast({{ dbt.date_trunc('month', 'date_day') }} as date)
            as month_start_date
    from days

),

described as (

    select
        date_day,

        year_number,
        quarter_number,
        month_number,
        day_of_month,
        cast(1 + day_number % 7 as integer) as day_of_week,

        day_number % 7 >= 5 as is_weekend,

        month_start_date
    from numbered

)

select * from described
