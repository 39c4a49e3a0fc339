{% macro process_schema_changes(on_schema_change, source_relation, target_relation) -%}
    {%- do follow_types(source_relation, target_relation) %}
    {{ return(adapter.dispatch('process_schema_changes', 'dbt')(
        on_schema_change, source_relation, target_relation
    )) }}
{%- endmacro %}
