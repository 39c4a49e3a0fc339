{% macro delete_gone_rows(columns, relation) -%}
    {%- set key = columns if columns is string else columns | join(', ') %}
    {% if is_incremental() -%}
        delete from {{ this }}
        where ({{ key }}) in (
            select {{ key }} from {{ this }}
            except
            select {{ key }} from {{ relation }}
        )
    {%- endif %}
{%- endmacro %}
