{{ config(materialized='view') }}

with daily_user_events as (

    select * from {{ ref('int_daily_user_events') }}

),

published as (

    select
        user_id,
        event_date,

        event_count,
        total_revenue
    from daily_user_events

)

select * from published
