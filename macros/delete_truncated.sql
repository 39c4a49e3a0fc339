{% macro delete_truncated(changes, keys, columns, events) -%}

{%- set stamps = 'generation lsn seq committed_at load_id loaded_at'.split() %}
{%- set place = '_generation, _lsn, _seq' %}
{%- set of_key = 'partition by ' ~ keys | join(', ') ~ ' order by ' ~ place -%}

with truncations as (

    select
        row_number() over (order by {{ place }}) as _epoch,
        {%- for stamp in stamps %}
        _{{ stamp }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ changes }}
    where _op = 't'

),

placed as (

    select
        *,
        sum(case when _op = 't' then 1 else 0 end) over (
            order by {{ place }} rows unbounded preceding
        ) as _epoch
    from (
        {{ events }}
        union all
        select
            {%- for column in keys + columns %}
            null as {{ column }},
            {%- endfor %}
            't' as _op,
            false as _is_state,
            {%- for stamp in stamps %}
            _{{ stamp }}{{ ',' if not loop.last }}
            {%- endfor %}
        from truncations
    ) as events

),

ordered as (

    select
        *,
        lead(_epoch) over ({{ of_key }}) as _next_epoch,
        coalesce(max(_is_state) over (
            {{ of_key }} rows between 1 following and unbounded following
        ), false) as _is_late
    from placed
    where _op <> 't'

)

select
    {{ (keys + columns) | join(', ') }},
    _op,
    _is_state,
    {%- for stamp in stamps %}
    _{{ stamp }}{{ ',' if not loop.last }}
    {%- endfor %}
from ordered
where not _is_late
union all
select
    {%- for each in keys %}
    ordered.{{ each }},
    {%- endfor %}
    {%- for column in columns %}
    null as {{ column }},
    {%- endfor %}
    'd' as _op,
    false as _is_state,
    truncations._generation,
    truncations._lsn,
    truncations._seq,
    truncations._committed_at,
    greatest(ordered._load_id, truncations._load_id) as _load_id,
    greatest(ordered._loaded_at, truncations._loaded_at) as _loaded_at
from ordered
inner join truncations on ordered._epoch + 1 = truncations._epoch
where
    ordered._op <> 'd'
    and not ordered._is_late
    and coalesce(ordered._next_epoch > ordered._epoch, true)
{%- endmacro %}
