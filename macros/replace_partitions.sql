{% macro replace_partitions() -%}
    {{ return(adapter.dispatch('replace_partitions', 'pyops')()) }}
{%- endmacro %}

{% macro default__replace_partitions() -%}
    {{ return('insert_overwrite') }}
{%- endmacro %}

{% macro duckdb__replace_partitions() -%}
    {{ return('delete+insert') }}
{%- endmacro %}
