{% macro delete_vanished_partitions(column_name, relation) -%}
    {% if is_incremental() -%}
        delete from {{ this }}
        where {{ column_name }} not in (
            select present.{{ column_name }}
            from {{ relation }} as present
            where present.{{ column_name }} is not null
        )
    {%- endif %}
{%- endmacro %}
