{% macro changes_to_apply(changes, key, columns, state, sent_as) -%}

{%- set keys = quoted(key) %}
{%- set stamps = 'generation lsn seq committed_at load_id loaded_at'.split() -%}

{# A value that was not sent has no box; one that is null is in one. -#}
with arrived as (

    select
        {{ keys | join(', ') }},
        {%- for column in columns %}
        case
            when
                _op <> 'd'
                and not {{ is_unchanged(sent_as.get(column, column)) }}
                then {{ box(adapter.quote(column)) }}
        end as {{ adapter.quote(column) }},
        {%- endfor %}
        _op,
        false as _is_state,
        {%- for stamp in stamps %}
        _{{ stamp }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ changes }}
    where
        _op <> 't'
        {%- if is_incremental() %}
        and {{ arrived_since_last_run() }}
        {%- endif %}

)

select * from arrived
{%- if is_incremental() %}
union all
select
    {{ keys | join(', ') }},
    {%- for column in quoted(columns) %}
    {{ box(column) }} as {{ column }},
    {%- endfor %}
    _op,
    true as _is_state,
    {%- for stamp in stamps %}
    _{{ stamp }}{{ ',' if not loop.last }}
    {%- endfor %}
from (
    {# Not a CTE: an engine that keeps it would read all of it. -#}
    select *
    from ({{ state }}) as state
    where
        {%- for each in keys %}
        {{ each }} in (select arrived.{{ each }} from arrived)
        {{- ' and' if not loop.last }}
        {%- endfor %}
    union distinct
    {# Nothing that lives outlives a truncation. -#}
    select state.*
    from ({{ state }}) as state
    inner join (
        select distinct 'r' as _op from {{ changes }}
        where _op = 't' and {{ arrived_since_last_run() }}
    ) as truncated on state._op = truncated._op
) as before
{%- endif %}
{%- endmacro %}
