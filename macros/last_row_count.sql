{% macro last_row_count() -%}
    {%- if execute %}
        {%- set counts = row_counts() %}
        {%- set counts = adapter.get_relation(
            counts.database, counts.schema, counts.identifier
        ) %}
    {%- endif %}
    {%- if counts %}
        {%- set name = dbt.escape_single_quotes(counted_by(model).name) %}
    select row_count
    from {{ counts }}
    where counted = {{ dbt.string_literal(name) }}
    order by run_started_at desc
    limit 1
    {%- else %}
    select cast(null as {{ dbt.type_bigint() }}) as row_count
    {%- endif %}
{%- endmacro %}
