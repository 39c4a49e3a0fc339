{{
    config(
        materialized='incremental',
        incremental_strategy=replace_partitions(),
        unique_key='event_date',
        partition_by='event_date',
        pre_hook="{{ delete_gone_rows(
            'event_date', ref('stg_events')
        ) }}",
    )
}}

{%- set pause_end = dbt.dateadd(
    'minute', var('session_pause_minutes'), 'previous_event_at'
) %}
{%- set visit = [
    'visits.session_id', 'visits.event_date', 'visits.visit_number'
] %}

with lines as (

    select * from {{ ref('stg_events') }}

),

days as (

    select
        event_date,
        count(*) as _line_count,
        max(_load_id) as _load_id,
        max(_loaded_at) as _loaded_at
    from lines
    group by 1

),

-- A day is built again when lines of it arrived, and when some are gone: its
-- newest load, or their number, is then another.
changed_days as (

    {{
        changed_since_last_run('days', [
            'event_date', '_line_count', '_load_id',
        ])
    }}

),

numbered as (

    select
        *,
        row_number() over (
            partition by event_date, event_id
            order by event_at, file_name, file_line
        ) as arrival_number
    from lines
    where event_date in (select changed_days.event_date from changed_days)

),

first_arrivals as (

    select
        *,
        lag(event_at) over (
            partition by event_date, session_id order by event_at, event_id
        ) as previous_event_at
    from numbered
    where arrival_number = 1

),

visits as (

    select
        *,
        1 + sum(case when event_at > {{ pause_end }} then 1 else 0 end) over (
            partition by event_date, session_id
            order by event_at, event_id
            rows between unbounded preceding and current row
        ) as visit_number
    from first_arrivals

),

sessionized as (

    select
        visits.event_id,
        {{ dbt_utils.generate_surrogate_key(visit) }} as visit_id,
        visits.session_id,
        visits.user_id,
        visits.order_id,

        visits.event_type,
        visits.stock_code,
        visits.page_path,
        visits.page_referrer,

        cast(visits.visit_number as integer) as visit_number,
        row_number() over (
            partition by {{ visit | join(', ') }}
            order by visits.event_at, visits.event_id
        ) as event_number,
        visits.amount,

        visits.event_date,

        visits.event_at,

        days._line_count,
        days._load_id,
        days._loaded_at
    from visits
    inner join days on visits.event_date = days.event_date

)

select * from sessionized
