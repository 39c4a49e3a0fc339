{% macro change_type(table, column, before, after) -%}
    {{ return(adapter.dispatch('change_type', 'pyops')(
        table, column, before, after
    )) }}
{%- endmacro %}

{% macro default__change_type(table, column, before, after) -%}
    {{ return(false) }}
{%- endmacro %}

{% macro duckdb__change_type(table, column, before, after) -%}
    {%- set lost = run_query(
        'select 1 from ' ~ table ~ ' where try_cast(try_cast(' ~ column ~ ' as '
        ~ after ~ ') as ' ~ before ~ ') is distinct from ' ~ column ~ ' limit 1'
    ) %}
    {%- if lost | length == 0 %}
        {%- do run_query(
            'alter table ' ~ table ~ ' alter ' ~ column ~ ' type ' ~ after
        ) %}
    {%- endif %}
    {{ return(lost | length == 0) }}
{%- endmacro %}
