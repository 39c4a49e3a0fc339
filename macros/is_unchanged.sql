{% macro is_unchanged(column) -%}
    {{ return(adapter.dispatch('is_unchanged', 'pyops')(column)) }}
{%- endmacro %}

{% macro default__is_unchanged(column) -%}
    array_contains(_unchanged, {{ dbt.string_literal(dbt.escape_single_quotes(column)) }})
{%- endmacro %}

{% macro duckdb__is_unchanged(column) -%}
    list_contains(_unchanged, {{ dbt.string_literal(dbt.escape_single_quotes(column)) }})
{%- endmacro %}
