{% macro generate_surrogate_key(field_list) %}

{%- set null_value = '_dbt_utils_surrogate_key_null_' %}
{%- if var('surrogate_key_treat_nulls_as_empty_strings', false) %}
    {%- set null_value = '' %}
{%- endif %}

{%- set parts = [] %}
{%- for field in field_list %}
    {%- set text = 'cast(' ~ field ~ ' as ' ~ dbt.type_string() ~ ')' %}
    {%- do parts.append("'-'") if parts %}
    {%- do parts.append('coalesce(' ~ text ~ ", '" ~ null_value ~ "')") %}
{%- endfor %}

{{- dbt.hash(dbt.concat(parts)) }}

{%- endmacro %}
