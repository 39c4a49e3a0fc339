{% macro apply_changes(changes, key, columns, sent_as={}) -%}

{%- set ids = [key] if key is string else key %}
{%- set keys = quoted(ids) %}
{%- set names = quoted(columns) %}
{%- set kept = '_generation, _lsn, _seq, _load_id, _loaded_at' %}

{%- set state %}
    select
        {{ (keys + names) | join(', ') }},
        case when _is_deleted then 'd' else 'r' end as _op,
        _generation,
        _lsn,
        _seq,
        cast(null as {{ dbt.type_timestamp() }}) as _committed_at,
        _load_id,
        _loaded_at
    from {{ this }}
{%- endset -%}

select
    {{ (keys + names) | join(', ') }},
    _op = 'd' as _is_deleted,
    {{ kept }}
from (
    {{ resolve_changes(changes, ids, columns, state, sent_as) }}
) as resolved
where _is_last and not _is_state
{%- endmacro %}
