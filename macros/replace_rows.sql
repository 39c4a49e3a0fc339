{% macro replace_rows() -%}
    {{ return(adapter.dispatch('replace_rows', 'pyops')()) }}
{%- endmacro %}

{% macro default__replace_rows() -%}
    {{ return('merge') }}
{%- endmacro %}

{% macro duckdb__replace_rows() -%}
    {{ return('delete+insert') }}
{%- endmacro %}
