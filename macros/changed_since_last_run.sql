{% macro changed_since_last_run(rows, columns) -%}
    select {{ columns | join(', ') }} from {{ rows }}
    {%- if is_incremental() %}
        except
        select {{ columns | join(', ') }} from {{ this }}
    {%- endif %}
{%- endmacro %}
