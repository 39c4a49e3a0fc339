{% macro create_row_counts_sql(relation) -%}
    {{ return(adapter.dispatch('create_row_counts_sql', 'pyops')(relation)) }}
{%- endmacro %}

{% macro default__create_row_counts_sql(relation) -%}
    create table if not exists {{ relation }} (
        counted {{ dbt.type_string() }},
        row_count {{ dbt.type_bigint() }},
        invocation_id {{ dbt.type_string() }},
        run_started_at {{ dbt.type_timestamp() }}
    )
{%- endmacro %}
