{% macro keep_history(changes, key, columns, sent_as={}) -%}

{%- set ids = [key] if key is string else key %}
{%- set keys = quoted(ids) %}
{%- set names = quoted(columns) %}
{%- set place = '_generation, _lsn, _seq' %}
{%- set by_key = 'partition by ' ~ keys | join(', ') %}

{%- set state %}
    select
        {{ (keys + names) | join(', ') }},
        case when is_deleted then 'd' else 'r' end as _op,
        {{ place }},
        valid_from as _committed_at,
        _load_id,
        _loaded_at
    from {{ this }}
    where is_current
{%- endset -%}

with resolved as (

    {{ resolve_changes(changes, ids, columns, state, sent_as) }}

),

{# Nobody has seen what a transaction did to a row before its last change of it. -#}
committed as (

    select
        *,
        row_number() over (
            {{ by_key }}, _generation, _lsn, _committed_at, _is_state
            order by _seq desc
        ) as _rank
    from resolved

),

compared as (

    select
        *,
        lag(_op) over since as _op_before,
        {%- for column in names %}
        lag({{ column }}) over since as _before_{{ loop.index }}
        {{- ',' if not loop.last }}
        {%- endfor %}
    from committed
    where _rank = 1
    window since as ({{ by_key }} order by {{ place }})

),

numbered as (

    select
        *,
        sum(case
            when
                _op_before is null
                or (_op_before = 'd') <> (_op = 'd')
                {%- for column in names %}
                or {{ column }} is distinct from _before_{{ loop.index }}
                {%- endfor %}
                then 1
            else 0
        end) over (
            {{ by_key }} order by {{ place }} rows unbounded preceding
        ) as _version
    from compared

),

{# A version is its last change, which left it as it was, dated by its first. -#}
dated as (

    select
        *,
        first_value(_committed_at) over version as _began_at,
        (lead(_op) over version) is null as _is_end
    from numbered
    window version as ({{ by_key }}, _version order by {{ place }})

),

{# Commit times may be a moment out of order; versions may not. -#}
begun as (

    select
        *,
        max(_began_at) over (
            {{ by_key }} order by _version rows unbounded preceding
        ) as _valid_from
    from dated
    where _is_end

),

ended as (

    select
        *,
        lead(_valid_from) over ({{ by_key }} order by _version) as _valid_to
    from begun

)

select
    {{ (keys + names) | join(', ') }},
    _valid_to is null as is_current,
    _op = 'd' as is_deleted,
    _valid_from as valid_from,
    _valid_to as valid_to,
    {{ place }},
    _load_id,
    _loaded_at
from ended
where _valid_to is null or _valid_to > _valid_from
{%- endmacro %}
