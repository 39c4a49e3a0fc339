{% macro is_unchanged(column) -%}
    {{ return(adapter.dispatch('is_unchanged', 'pyops')(column)) }}
{%- endmacro %}

{% macro default__is_unchanged(column) -%}
    array_contains(_unchanged, '{{ column }}')
{%- endmacro %}

{% macro duckdb__is_unchanged(column) -%}
    list_contains(_unchanged, '{{ column }}')
{%- endmacro %}
