{% macro arrived_since_last_run() -%}
    _load_id > (select coalesce(max(seen._load_id), -1) from {{ this }} as seen)
{%- endmacro %}
