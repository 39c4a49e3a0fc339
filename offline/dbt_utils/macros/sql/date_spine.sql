{% macro date_spine(datepart, start_date, end_date) %}

{#- dbt's own gives no rows for an empty range on some databases. -#}
{%- if dbt.get_intervals_between(start_date, end_date, datepart) <= 0 %}
    {%- do exceptions.raise_compiler_error('upper bound must be positive') %}
{%- endif %}

{{- dbt.date_spine(datepart, start_date, end_date) }}

{%- endmacro %}
