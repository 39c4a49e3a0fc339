{% macro box(column) -%}
    {{ return(adapter.dispatch('box', 'pyops')(column)) }}
{%- endmacro %}

{% macro default__box(column) -%}
    named_struct('boxed', {{ column }})
{%- endmacro %}

{% macro duckdb__box(column) -%}
    struct_pack(boxed := {{ column }})
{%- endmacro %}
