{% macro cents_to_dollars(column_name) -%}
    cast(cast({{ column_name }} as decimal(19, 0)) * 0.01 as decimal(19, 2))
{%- endmacro %}
