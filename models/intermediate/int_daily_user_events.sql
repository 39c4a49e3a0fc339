{{
    config(
        materialized='incremental',
        incremental_strategy=replace_partitions(),
        unique_key='event_date',
        partition_by='event_date',
        pre_hook="{{ delete_gone_rows(
            'event_date', ref('int_events_sessionized')
        ) }}",
    )
}}

with events as (

    select * from {{ ref('int_events_sessionized') }}

),

-- The days that were built again there; each of a day's rows says from what.
changed_days as (

    {{
        changed_since_last_run('events', [
            'event_date', '_line_count', '_load_id',
        ])
    }}

),

aggregated as (

    select
        user_id,
        event_date,

        count(*) as event_count,
        cast(sum(coalesce(amount, 0)) as decimal(19, 2)) as total_revenue,

        max(_line_count) as _line_count,
        max(_load_id) as _load_id,
        max(_loaded_at) as _loaded_at
    from events
    where event_date in (select changed_days.event_date from changed_days)
    group by 1, 2

)

select * from aggregated
