{% macro snapshot_merge_sql(target, source, insert_cols) -%}
    {%- do follow_types(source, target) %}
    {{- adapter.dispatch('snapshot_merge_sql', 'dbt')(
        target, source, insert_cols
    ) }}
{%- endmacro %}
