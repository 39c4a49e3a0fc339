{% macro row_counts() -%}
    {{ return(api.Relation.create(
        database=target.database,
        schema='quality',
        identifier='row_counts',
    )) }}
{%- endmacro %}
