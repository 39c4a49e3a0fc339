{% macro delete_rows_of_arrivals(column, relation) -%}
    {% if is_incremental() -%}
        delete from {{ this }}
        where {{ column }} in (
            select arrived.{{ column }}
            from {{ relation }} as arrived
            where arrived.{{ arrived_since_last_run() }}
        )
    {%- endif %}
{%- endmacro %}
