{{
    config(
        materialized='incremental',
        incremental_strategy=replace_rows(),
        unique_key='order_status_id',
        pre_hook="{{ delete_rows_of_arrivals(
            'order_id', ref('int_orders_history')
        ) }}",
    )
}}

with history as (

    select * from {{ ref('int_orders_history') }}

),

-- An order of which anything arrived is computed again, as a whole.
arrived as (

    select distinct order_id from history
    {% if is_incremental() %}
        where {{ arrived_since_last_run() }}
    {% endif %}

),

-- A deleted order is in no status.
versions as (

    select
        order_id,
        case when not is_deleted then status end as status,
        valid_from,
        _load_id,
        _loaded_at
    from history
    where order_id in (select arrived.order_id from arrived)

),

compared as (

    select
        *,
        lag(status) over (
            partition by order_id order by valid_from
        ) as previous_status,
        max(_load_id) over (partition by order_id) as last_load_id,
        max(_loaded_at) over (partition by order_id) as last_loaded_at
    from versions

),

entered as (

    select
        *,
        lead(valid_from) over (
            partition by order_id order by valid_from
        ) as left_at
    from compared
    where status is distinct from previous_status

),

measured as (

    select
        {{ dbt_utils.generate_surrogate_key(['order_id', 'valid_from']) }}
            as order_status_id,
        order_id,

        status,

        row_number() over (
            partition by order_id order by valid_from
        ) as status_number,
        {{ dbt.datediff('valid_from', 'left_at', 'second') }}
            as seconds_in_status,

        left_at is null as is_current,

        valid_from as entered_at,
        left_at,

        last_load_id as _load_id,
        last_loaded_at as _loaded_at
    from entered
    where status is not null

)

select * from measured
